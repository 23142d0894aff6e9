from mfd_flower.accounting.plan import plan as plan
from mfd_flower.ledger import Ledger as Ledger
from mfd_flower.ledger import LedgerError as LedgerError
from mfd_flower.ledger import example_ledger as example_ledger
from mfd_flower.models import PromptedViT as PromptedViT
from mfd_flower.models import get_tunables as get_tunables
from mfd_flower.models import set_tunables as set_tunables
from mfd_flower.models.export import export as export
from mfd_flower.models.model_file import TrainedModel as TrainedModel
from mfd_flower.models.predict import Prediction as Prediction
from mfd_flower.models.predict import predict as predict
from mfd_flower.models.stages import split_model as split_model
from mfd_flower.packets import Packet as Packet
from mfd_flower.packets import PacketError as PacketError
from mfd_flower.packets import example_packet as example_packet
from mfd_flower.report.loggers import log_results as log_results
from mfd_flower.results import Results as Results
from mfd_flower.routing import Candidate as Candidate
from mfd_flower.routing import choose as choose
from mfd_flower.routing import kl_divergence as kl_divergence
from mfd_flower.runtime.compare import compare as compare
from mfd_flower.runtime.compare import run as run
from mfd_flower.split.cuts import plan_cuts as plan_cuts

__version__: str
