// What did each fault hit, and on which node was it?
MATCH (f:Fault {run_id: $run})-[:HIT]->(t:Target)
RETURN f.name AS fault, t.kind AS kind, t.namespace AS namespace, t.name AS name, t.node AS node, t.service AS service,
       t.file AS file, t.ref AS ref
ORDER BY f.seq, t.seq
