"""Continual-learning methods, one file each: the whole training loop of a method, top to bottom on one screen.

Every factory takes the model and the optimiser first, then what the method needs by name, and last `batch_size`, `epochs` and
`iterations` as `cl.minibatches` does (batch_size=None: the experience is one minibatch, as in online streams).
"""

from cl_func.strategies.acil import ACILAgent, acil
from cl_func.strategies.agem import AGEMAgent, agem
from cl_func.strategies.bic import BiCAgent, bic
from cl_func.strategies.cumulative import cumulative
from cl_func.strategies.der import DERAgent, DERppAgent, der, der_pp
from cl_func.strategies.er import ERAgent, er
from cl_func.strategies.er_ace import ERACEAgent, er_ace
from cl_func.strategies.er_lwf import ERLwFAgent, er_lwf
from cl_func.strategies.ewc import EWCAgent, ewc
from cl_func.strategies.ewc_online import ewc_online
from cl_func.strategies.fecam import FeCAMAgent, fecam
from cl_func.strategies.from_scratch import FromScratchAgent, from_scratch
from cl_func.strategies.gdumb import GDumbAgent, gdumb
from cl_func.strategies.gem import GEMAgent, gem
from cl_func.strategies.gss import GSSAgent, gss
from cl_func.strategies.icarl import ICaRLAgent, icarl
from cl_func.strategies.joint import joint
from cl_func.strategies.lwf import LwFAgent, lwf
from cl_func.strategies.mas import MASAgent, mas
from cl_func.strategies.mir import MIRAgent, mir
from cl_func.strategies.naive import naive
from cl_func.strategies.ncm import NCMAgent, ncm
from cl_func.strategies.ogd import OGDAgent, ogd
from cl_func.strategies.owm import OWMAgent, owm
from cl_func.strategies.ranpac import RanPACAgent, ranpac
from cl_func.strategies.rar import RARAgent, rar
from cl_func.strategies.rwalk import RWalkAgent, rwalk
from cl_func.strategies.scr import SCRAgent, scr
from cl_func.strategies.si import SIAgent, si
from cl_func.strategies.slda import SLDAAgent, slda

__all__ = [
    "ACILAgent",
    "AGEMAgent",
    "BiCAgent",
    "DERAgent",
    "DERppAgent",
    "ERACEAgent",
    "ERAgent",
    "ERLwFAgent",
    "EWCAgent",
    "FeCAMAgent",
    "FromScratchAgent",
    "GDumbAgent",
    "GEMAgent",
    "GSSAgent",
    "ICaRLAgent",
    "LwFAgent",
    "MASAgent",
    "MIRAgent",
    "NCMAgent",
    "OGDAgent",
    "OWMAgent",
    "RARAgent",
    "RWalkAgent",
    "RanPACAgent",
    "SCRAgent",
    "SIAgent",
    "SLDAAgent",
    "acil",
    "agem",
    "bic",
    "cumulative",
    "der",
    "der_pp",
    "er",
    "er_ace",
    "er_lwf",
    "ewc",
    "ewc_online",
    "fecam",
    "from_scratch",
    "gdumb",
    "gem",
    "gss",
    "icarl",
    "joint",
    "lwf",
    "mas",
    "mir",
    "naive",
    "ncm",
    "ogd",
    "owm",
    "ranpac",
    "rar",
    "rwalk",
    "scr",
    "si",
    "slda",
]
