// Which events prove which step of a fault?
MATCH (f:Fault {run_id: $run})-[p:PROVED_BY]->(e:Event)
RETURN f.name AS fault, p.step AS step, e.ref AS event, e.time_us AS time_us, e.kind AS kind, e.name AS name, e.reason AS reason
ORDER BY e.time_us, event
