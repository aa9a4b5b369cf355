"""BN409: a layer frozen or thawed behind the back of the compiled training."""

from __future__ import annotations

from bnscope.rules.base import RunRule, Severity, StateProblem


class TrainableChanged(RunRule):
    """`trainable` was changed after the training was compiled, and was not compiled again.

    ## What it does
    Compares the flag of each BN layer at every logged step with that with which the running
    training was made: in the first `fit` after `compile`, or as the optimizer has it where that
    ends the training anyway (JAX, torch). Where that `fit` was not watched, the optimizer tells
    on TensorFlow too, and of a layer that is frozen now also whether its statistics move.

    ## Why is this bad
    On TensorFlow the training goes on as it was compiled: a layer that is frozen now still
    moves its statistics, and gamma and beta with it; one that was thawed stands still. JAX
    ends with an error about the number of variables, torch with one about an unknown variable.

    ## What to do
    Call `compile` after changing `trainable`.

    ## When it is quiet
    A flag changed between `compile` and the first `fit`, which takes it up. A model in which
    nothing is trainable any more: a GAN's discriminator is trained with the flags of the time
    at which it was compiled. A layer frozen under torch, which takes it up at once.
    A change before the first `fit` that was watched, unless the optimizer shows it.

    ## References
    - <https://keras.io/guides/transfer_learning/>
    """

    code = "BN409"
    name = "trainable-changed"
    severity = Severity.ERROR
    advice = "Call compile after changing trainable."

    def check_flag(self, trainable: bool, compiled: bool) -> StateProblem | None:  # noqa: FBT001
        """Whether the flag differs from that with which the training was made.

        Args:
            trainable: the layer's flag now.
            compiled: its flag as the training was made.
        """
        if trainable == compiled:
            return None
        done, still = ("thawed", "frozen") if trainable else ("frozen", "trained")
        return StateProblem(
            f"trainable is {trainable} now and was {compiled} when the training was compiled: "
            f"the layer was {done}, and is still {still}.",
            "trainable",
            (),
            float(trainable),
            float(compiled),
            self.severity,
        )
