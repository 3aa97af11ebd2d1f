# Writes a checkpoint of seeded random weights anew: cmake -D FATHOMCTL= CONFIG= TOKENIZER= OUTPUT=
# -P. The seed is fixed, so that every run serves the same model.
file(REMOVE_RECURSE "${OUTPUT}")
execute_process(
  COMMAND "${FATHOMCTL}" synth --config "${CONFIG}" --tokenizer "${TOKENIZER}" --seed 7 "${OUTPUT}"
  COMMAND_ERROR_IS_FATAL ANY)
