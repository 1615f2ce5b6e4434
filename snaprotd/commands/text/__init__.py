"""The same facts for people: tables, sentences, the line that moves."""
