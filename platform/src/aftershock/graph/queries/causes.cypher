// Which effects were accepted as caused, after structure, deviation and order in time were tested?
MATCH (a {run_id: $run})-[c:CAUSED {run_id: $run}]->(b)
RETURN a.name AS cause, b.name AS effect, c.why AS why
ORDER BY c.rank, cause, effect
