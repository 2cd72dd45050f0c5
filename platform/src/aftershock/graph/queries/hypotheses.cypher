// What does the blind diagnosis suspect, best first?
MATCH (r:Run {run_id: $run})-[:SUSPECTS]->(h:Hypothesis)
RETURN h.rank AS rank, h.entity AS entity, h.indicator AS indicator, h.score AS score, h.path AS path, h.file AS file, h.ref AS ref
ORDER BY h.rank LIMIT 3
