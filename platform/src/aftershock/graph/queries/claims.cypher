// What does the postmortem claim in a language, and what does each claim rest on?
MATCH (r:Run {run_id: $run})-[:CLAIMS]->(c:Claim {language: $language})
OPTIONAL MATCH (c)-[e:CITES]->(n)
RETURN c.ref AS claim, c.section AS section, c.text AS text, c.facts AS facts, collect(n.ref) AS grounds
ORDER BY claim
