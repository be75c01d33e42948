import { createReadStream } from 'node:fs';
import { basename } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { type Day, TallyError, type UsageEntry } from '@tally/contracts';

const HEADER = 'TIMESTAMP,ContextTokens,GeneratedTokens';
const ROW = /^\d{4}-\d{2}-\d{2} (\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?),(\d+),(\d+)$/;

/**
 * Reads a trace of the Azure Public Dataset (AzureLLMInferenceDataset2023) as events of one merchant, one per line,
 * moved to the day `on` with their time of day. Ids come from file and line, so reading it again makes the same events.
 */
export async function* readAzureTrace(file: string, to: { merchantId: string; on: Day }): AsyncGenerator<UsageEntry> {
  const lines = createInterface({ input: createReadStream(file), crlfDelay: Number.POSITIVE_INFINITY });
  let number = 0;
  for await (const line of lines) {
    number++;
    if (line === '') continue;
    if (number === 1) {
      if (line.replace(/^\uFEFF/, '') === HEADER) continue;
      throw new TallyError('INVALID_INPUT', `${file}: the first line is not "${HEADER}".`);
    }
    const [, time, prompt, completion] = ROW.exec(line) ?? [];
    if (!time)
      throw new TallyError('INVALID_INPUT', `${file}:${number}: expected "YYYY-MM-DD HH:MM:SS.fff,tokens,tokens".`);
    yield {
      id: `${basename(file).slice(-100)}:${number}`,
      merchantId: to.merchantId,
      time: `${to.on}T${time}Z`,
      provider: 'azure',
      metrics: { prompt_tokens: whole(prompt!), completion_tokens: whole(completion!) },
    };
  }
}

const whole = (digits: string) => digits.replace(/^0+(?=\d)/, '');
