/** An answer that is kept as its JSON. */
class ReadyJson {
  constructor(readonly text: string) {}

  /** For those who put it into JSON of their own, such as a batch of calls. */
  toJSON(): unknown {
    return JSON.parse(this.text);
  }
}

/**
 * Makes an answer of its JSON, which is sent as it is: not parsed, checked and printed again for each call. Whoever makes
 * one has checked it by the output schema of its procedure.
 */
export const readyJson = <Answer>(text: string): Answer => new ReadyJson(text) as Answer;

/** The JSON of an answer that `readyJson` made; undefined for all others. */
export const textOfReady = (answer: unknown): string | undefined =>
  answer instanceof ReadyJson ? answer.text : undefined;
