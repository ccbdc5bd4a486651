"""Attribution: what each neuron does to a number of each sentence, for all neurons in one backward pass."""
