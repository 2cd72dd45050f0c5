// Which findings made the verdict, and what does each advise?
MATCH (r:Run {run_id: $run})-[:FOUND]->(f:Finding)
RETURN f.name AS name, f.rule AS rule, f.outcome AS outcome, f.summary AS summary, f.advice AS advice, f.file AS file, f.ref AS ref
ORDER BY f.seq
