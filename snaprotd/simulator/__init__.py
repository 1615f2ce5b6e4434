"""A stand-in for the VPS.org API: its limit, its delays, its faults. It knows nothing of the program that uses it."""

from snaprotd.simulator.api import ROOT, Reply, Request, answer
from snaprotd.simulator.faults import FAULT_HELP, KINDS, Fault
from snaprotd.simulator.http import ServedApi, serve
from snaprotd.simulator.world import Deletion, SimServer, SimSnapshot, World, sample_world

__all__ = [
    "FAULT_HELP",
    "KINDS",
    "ROOT",
    "Deletion",
    "Fault",
    "Reply",
    "Request",
    "ServedApi",
    "SimServer",
    "SimSnapshot",
    "World",
    "answer",
    "sample_world",
    "serve",
]
