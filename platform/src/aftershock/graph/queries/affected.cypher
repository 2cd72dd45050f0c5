// Which services lie on the way of orders that failed, and how many of these did each handle with an error?
MATCH (o:`Order` {run_id: $run})-[h:HANDLED_BY]->(p:Pod)-[:INSTANCE_OF]->(s:Service)
WHERE o.failed = true AND h.error = true
RETURN s.name AS service, count(DISTINCT o.id) AS orders
ORDER BY orders DESC, service
