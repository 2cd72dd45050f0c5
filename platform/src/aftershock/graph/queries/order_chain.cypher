// What became of one order: its payment and its shipment?
MATCH (o:`Order` {run_id: $run, name: $order_id})
OPTIONAL MATCH (o)-[:PAID_BY]->(p:Payment)
OPTIONAL MATCH (o)-[:SHIPPED_BY]->(s:Shipment)
RETURN o.name AS order_id, o.state AS state, o.reason AS reason, o.failed AS failed, o.slow AS slow, o.touched AS touched,
       o.created_us AS created_us, p.name AS payment, p.state AS payment_state, p.created_us AS paid_us,
       s.name AS shipment, s.state AS shipment_state, s.created_us AS shipped_us
ORDER BY payment, shipment
