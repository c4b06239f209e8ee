"""Training experts of a model that is kept as content-addressed blocks.

Some slots of a snapshot learn on tokens, everything else stays as it is, and what comes of it are candidate
blocks, which `evolve` judges by what they do:

>>> from blyan import evolve, learn
>>> tokens = model.tokenize("In the beginning God created the heaven and the earth. " * 4)
>>> with blyan.Chain.in_memory() as another:
...     meta = blyan.import_checkpoint(another, folder)
...     snapshot = another.snapshot()
...     trainer = learn.Trainer(another, snapshot, tokens, ["layer0.expert1", "layer0.router"],
...                             steps=3, batch=1, sequence=16, learning_rate=1e-3)
...     finished = trainer.run(progress=False)
...     trained = trainer.append_candidates(another)
...     better = snapshot.with_blocks([one.block for one in trained])
...     losses = [evolve.evaluate(another, which, tokens).loss for which in (snapshot, better)]
>>> [one.slot for one in trained], losses[1] < losses[0]
(['layer0.router', 'layer0.expert1'], True)
"""

from blyan._blyan import Trainer
from blyan._values import StepReport, TrainedBlock

__all__ = ["StepReport", "TrainedBlock", "Trainer"]
