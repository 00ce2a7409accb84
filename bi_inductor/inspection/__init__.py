"""The tools that look at a model: ``explain`` its plan, ``certify`` its bits, ``diff`` two batches node by node."""
