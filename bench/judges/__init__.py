"""Test suites of others, run under Wirt unmodified: docs/judges.md."""
