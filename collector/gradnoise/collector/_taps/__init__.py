"""From the gradients of a torch model to draws: hooks, the rule of what is a draw, probes. The rooms' only torch."""
