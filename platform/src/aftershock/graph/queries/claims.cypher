// What does the postmortem claim in a language, and what does each claim rest on?
MATCH (r:Run {run_id: $run})-[:CLAIMS]->(c:Claim {language: $language})
OPTIONAL MATCH (c)-[e:CITES]->(n)
WITH c, n.ref AS ground
ORDER BY ground LIMIT 1000000
RETURN c.ref AS claim, c.section AS section, c.text AS text, c.facts AS facts, collect(ground) AS grounds
ORDER BY claim
