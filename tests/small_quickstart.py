"""Options that make the quickstart a matter of seconds: a model of one layer, six articles a set."""

SMALL_QUICKSTART = (
    "--prepare.tiny={vocab_size: 300, width: 64, layers: 1, heads: 2, positions: 700}",
    "--prepare.optimization.epochs=1",
    "--data.newsroom={forget_articles: 6, retain_articles: 6, holdout_articles: 2, rounds: 1}",
    "--data.max_len=128",
    "--evaluation.precisions=[nf4]",
    "--evaluation.suite={batch_size: 8, verbmem_new_tokens: 8, knowmem_new_tokens: 4, max_prompts: 2}",
    "--evaluation.max_windows=2",
    "--trainer.accelerator=cpu",
)
