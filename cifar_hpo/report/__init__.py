"""`python -m cifar_hpo.report`: the terminal's table, the page, its charts."""
