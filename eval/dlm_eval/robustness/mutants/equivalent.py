"""Lists the mutants that survive because they change nothing that a caller could see, with why.

An entry is the path of a file with the names of its mutants, as the result file has them.
"""

EQUIVALENT: dict[str, dict[str, str]] = {
    "dlm_sampling/likelihood/branching.py": {
        "branch: denoiser.process.name in rollout.request.sampler.scored_on -> "
        "denoiser.process.name not in rollout.request.sampler.scored_on": "it says which draws are "
        "scored, and a branch reads only the states: with its own seeds a step that is taken again "
        "draws what it drew",
    },
    "dlm_sampling/likelihood/clean_prefix.py": {
        "CleanPrefix.run: 1 -> 2 (number 6)": "a second column of padding, which the filler of a "
        "query does not reach",
    },
    "dlm_sampling/ops/categorical.py": {
        "_clocks: tiles > 1 -> tiles >= 1": "a lane for the only tile, which `race` does not read",
    },
    "dlm_sampling/ops/combined.py": {
        "Guided.combined: 0 -> 1": "`mix` returns the factor w + 1 twice",
    },
    "dlm_sampling/ops/laws.py": {
        "largest: -1 -> 1 (number 5)": "the last dimension of a tensor that has two",
    },
    "dlm_sampling/ops/nucleus_cpu.py": {
        "_part: floor * 1.01 -> floor": "another weight to cut at, inside of the bin: the tokens "
        "on its wrong side are put right one by one",
    },
    "dlm_sampling/ops/tiles.py": {
        "_read_one: 0 -> -1": "the only pass of a tuple of one",
    },
    "dlm_sampling/prediction/alike.py": {
        "alike: 0 -> -1": "the dimension of a tensor that has one",
    },
    "dlm_sampling/processes/jumps.py": {
        "_compound_poisson: 0.0 -> -1.0": "`normalised` cuts what rounding leaves below 0",
        "_compound_poisson: 20.0 -> 19.0": "a smaller window: what wraps around is below 1e-12",
        "_compound_poisson: 2 -> 3": "a larger window, of which more is empty",
    },
    "dlm_sampling/samplers/ccd_average.py": {
        "CCDAverage.step: 1 -> 2": "it scales the mean law of a row, which the draw normalises",
    },
    "dlm_sampling/samplers/klass.py": {
        "KLASS.init: torch.zeros_like(canvas.start) -> torch.ones_like(canvas.start)": "positions "
        "are counted in the first step of a block, before the number is read",
    },
    "dlm_sampling/samplers/llada.py": {
        "LLaDA.init: torch.zeros_like(canvas.start) -> torch.ones_like(canvas.start)": "positions "
        "are counted in the first step of a block, before the number is read",
    },
    "dlm_sampling/samplers/pc_linear.py": {
        "_nearness: 1 -> 0 (number 3)": "a row without an editable column writes nothing, whatever "
        "its score",
    },
    "dlm_sampling/samplers/parts/grid.py": {
        "GridSampler.move: canvas.editable & ~ending -> canvas.editable": "draws of rows that end "
        "are replaced by those that remove the noise",
    },
    "dlm_sampling/samplers/parts/two_stage.py": {
        "TwoStage.jump: u * self.bound_prob(interval)[row] < chance -> "
        "u * self.bound_prob(interval)[row] <= chance": "u has 52 random bits; where the bound is "
        "0 there are no candidates",
    },
    "dlm_sampling/samplers/ancestral.py": {
        "Ancestral.move: canvas.editable & ~ending -> canvas.editable": "draws of rows that end "
        "are replaced by those that remove the noise",
    },
    "dlm_sampling/processes/tweedie.py": {
        "tweedie_absorbing: (1.0 - 1.0 / ratio) * masked -> (1.0 - 1.0 / ratio) / masked": "the "
        "factor is 1 at a mask, and elsewhere the row is replaced",
    },
}
