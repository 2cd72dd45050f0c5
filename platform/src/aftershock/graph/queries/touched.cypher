// Which orders passed a pod that the fault hit, while it hit?
MATCH (f:Fault {run_id: $run})-[t:TOUCHED]->(o:`Order`)
RETURN f.name AS fault, o.name AS order_id, o.state AS state, o.failed AS failed, t.time_us AS time_us, t.evidence AS evidence
ORDER BY t.time_us, order_id
