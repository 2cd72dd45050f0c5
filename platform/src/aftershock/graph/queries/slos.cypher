// Which objectives were set, what was measured, and did they hold?
MATCH (r:Run {run_id: $run})-[:HAS_SLO]->(s:Slo)
RETURN s.name AS name, s.journey AS journey, s.indicator AS indicator, s.window AS window, s.bound AS bound, s.unit AS unit,
       s.measured AS measured, s.samples AS samples, s.held AS held, s.file AS file, s.ref AS ref
ORDER BY s.seq
