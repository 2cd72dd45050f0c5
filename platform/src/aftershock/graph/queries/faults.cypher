// Which faults were asked for, on how many targets, and did the cluster refuse any?
MATCH (r:Run {run_id: $run})-[:INJECTED]->(f:Fault)
RETURN f.name AS name, f.action AS action, f.activity AS activity, f.targets_count AS targets_count, f.refused AS refused,
       f.file AS file, f.ref AS ref
ORDER BY f.seq
