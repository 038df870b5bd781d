"""`python -m cifar_hpo.results`: the results of the named studies beside the article's."""
