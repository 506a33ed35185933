"""The teaching solution of chapter 5: pretrain a model, then finetune it."""

import kt_core as kt


# ======== exercise pretrain-finetune ========
def pretrain_finetune(model, windows, pairs, plan, train):
    """Train on the windows, then on the pairs; return the losses of both stages, two lists."""
    losses = []
    for data, (epochs, batch_size, peak) in zip((windows, pairs), plan, strict=True):
        batches = []
        for epoch in range(epochs):  # each epoch draws new windows and a new order
            batches.extend(kt.batches(data, batch_size, seed=0, epoch=epoch))
        n = len(batches)  # the number of steps of this stage
        rates = [peak * min(1, (n - step) / (0.7 * n)) for step in range(n)]  # flat, then linear
        losses.append(train(model, batches, rates))  # the second stage continues with this model
    return losses
