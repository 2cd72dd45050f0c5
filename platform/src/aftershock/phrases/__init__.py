"""How facts become sentences: kinds of sentences (`kinds`), their phrasings (one YAML a language), values as text, Korean particles."""
