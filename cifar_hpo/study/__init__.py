"""What is to be tried and what came of it: Optuna's study, its space, its ranking."""
