// What did the cluster say of itself between two moments? (allowed in the blind view)
MATCH (e:Event {run_id: $run})
WHERE e.time_us >= $from_us AND e.time_us < $to_us
RETURN e.id AS event, e.time_us AS time_us, e.kind AS kind, e.name AS name, e.type AS type, e.reason AS reason
ORDER BY e.time_us, e.id LIMIT $limit
