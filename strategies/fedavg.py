"""FedAvg, the baseline: Flower's own class, unchanged.

McMahan et al. 2017, *Communication-Efficient Learning of Deep Networks from Decentralized Data*
(arXiv 1602.05629). Its client half is the default `train` handler of `mfd_flower.handlers`.
"""

from flwr.serverapp.strategy import FedAvg

__all__ = ["FedAvg"]
