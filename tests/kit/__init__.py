"""What test files share, beside the fixtures in conftest.py. They import from here, and never from each other."""
