"""Hydra apps that know nothing of this package but `report` and `folder`: a plain one, one with
scikit-learn, one with PyTorch. README.md here walks through them."""
