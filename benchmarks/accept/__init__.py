"""The stages of `fastvit-bench accept`: each module is one, `plan` names them all."""
