// Which services lie on the way of orders that failed, and how many of these did each handle with an error?
// Counted and not filtered: ladybug's WHERE on a boolean lets some rows through for which it is false.
MATCH (o:`Order` {run_id: $run})-[h:HANDLED_BY]->(p:Pod)-[:INSTANCE_OF]->(s:Service)
WITH s.name AS service, o.id AS one, max(CASE WHEN o.failed = true AND h.error = true THEN 1 ELSE 0 END) AS failed
WITH service, sum(failed) AS orders
WHERE orders > 0
RETURN service, orders
ORDER BY orders DESC, service
