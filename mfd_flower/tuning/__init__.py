"""Tune every entry of a comparison equally hard, on seeds that its tables do not use.

Whoever compares methods has tried more settings of his own, and a table then shows that. Here every
entry gets as many settings, in every scenario, drawn without repetition from its `tune` table
(`mfd_flower.search_space`); its own, untuned settings are the first of them. All of them and what
they reached are written down.

Successive halving (Jamieson and Talwalkar 2016, *Non-stochastic Best Arm Identification and
Hyperparameter Optimization*, arXiv 1502.07943) with factor 3 spends less on the worse ones. Its
rungs are seeds and not rounds: a shorter run prefers what learns fast at first, is no beginning of
a longer one where a schedule depends on its length, and what has to be averaged out here is the
seed. A run is done once: a rung adds one seed to those that came before.
"""
