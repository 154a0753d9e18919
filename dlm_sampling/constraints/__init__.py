"""Constrain texts: words, expressions and schemas as automata, and the law conditioned on them."""

from dlm_sampling.constraints.automaton import TokenAutomaton
from dlm_sampling.constraints.constraint import Constraint, as_constraint

__all__ = ["Constraint", "TokenAutomaton", "as_constraint"]
