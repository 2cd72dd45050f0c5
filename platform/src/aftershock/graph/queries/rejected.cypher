// Which suspected causes were rejected, and why?
MATCH (a {run_id: $run})-[c:REJECTED {run_id: $run}]->(b)
RETURN a.name AS cause, b.name AS effect, c.why AS why
ORDER BY c.rank, cause, effect
