"""The commands of `python -m lstmjax`, each a function of its parsed options."""
