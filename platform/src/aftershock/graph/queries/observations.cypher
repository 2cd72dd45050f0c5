// Which scalars of this kind were measured?
MATCH (r:Run {run_id: $run})-[:OBSERVED]->(o:Observation {kind: $kind})
RETURN o.subject AS subject, o.metric AS metric, o.text AS text, o.value AS value, o.unit AS unit, o.time_us AS time_us,
       o.file AS file, o.ref AS ref
ORDER BY o.seq
