/** An answer kept as JSON text. */
class ReadyJson {
  constructor(readonly text: string) {}

  /** The JSON text, for callers that embed it, such as a batch of calls. */
  toJSON(): unknown {
    return JSON.parse(this.text);
  }
}

/**
 * Makes an answer from JSON text that is sent unchanged, without parsing, checking and printing per call. The caller
 * must have checked it by the output schema of its procedure.
 */
export const readyJson = <Answer>(text: string): Answer => new ReadyJson(text) as Answer;

/** Returns the JSON of an answer made by `readyJson`; undefined for any other. */
export const textOfReady = (answer: unknown): string | undefined =>
  answer instanceof ReadyJson ? answer.text : undefined;
