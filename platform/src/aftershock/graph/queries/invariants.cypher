// Which business rules were checked over how many orders, and how many broke them?
MATCH (r:Run {run_id: $run})-[:CHECKED]->(i:Invariant)
RETURN i.name AS name, i.outcome AS outcome, i.checked AS checked, i.violations AS violations, i.file AS file, i.ref AS ref
ORDER BY i.seq
