// When did each part of the schedule begin, and how long was it?
MATCH (w:Window {run_id: $run})
RETURN w.name AS name, w.from_us AS from_us, w.length_s AS length_s, w.file AS file, w.ref AS ref
ORDER BY w.from_us
