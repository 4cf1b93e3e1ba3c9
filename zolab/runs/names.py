"""Names that --help lists, of what would be slow to import for that; tests compare them with the tables of what they name."""

# Of `zolab.optim.METHODS`.
METHOD_NAMES = (
    *("mezo", "mezo_momentum", "mezo_adam", "mezo_switch", "adamezo", "meazo", "zo_adamu"),
    *("zo_sign_sgd", "hizoo", "lozo", "lozo_m", "fzoo", "grzo", "mezo_svrg", "forward_gradient", "dizo", "helene"),
    "zo_finetuner",
)
# Of `zolab.runs.first_order.FIRST_ORDER`.
FIRST_ORDER_NAMES = ("sgd", "adam", "sgd_checkpointed", "sgd_fused")
# Of `zolab.tasks.TASKS`.
TASK_NAMES = (
    *("rotten_tomatoes", "rotten_tomatoes_short"),
    *("reviews_sentence", "reviews_passage", "reviews_compare", "reviews_agree"),
    *("reviews_writer", "reviews_genre", "reviews_next", "reviews_number"),
    *("sst2", "rte", "cb", "boolq", "wsc", "wic", "multirc", "copa", "record", "squad", "drop"),
    *("masked_sst2", "masked_sst5", "masked_snli", "masked_mnli", "masked_rte", "masked_trec"),
)
OWN_TASKS = (
    "a file of your own (.jsonl, .csv, .parquet) with --prompt; "
    "or MODULE:CLASS, a Task of your own, for which this runs that module's Python"
)
# Of `zolab.models.DTYPES`.
DTYPE_NAMES = ("float32", "bfloat16", "float16")
# Of `zolab.models.quantised.QUANTISERS`, and for none of them.
QUANTISE_NAMES = ("none", "int8", "nf4")
