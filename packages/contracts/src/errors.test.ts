import { expect, test } from 'vitest';
import { ERRORS } from './errors.ts';

/** Returns a list item whose lines have at most 120 columns. */
function item(text: string): string {
  const lines = ['-'];
  for (const word of text.split(' ')) {
    const longer = `${lines.at(-1)} ${word}`;
    if (longer.length > 120) lines.push(`  ${word}`);
    else lines[lines.length - 1] = longer;
  }
  return lines.join('\n');
}

test('docs/errors.md has each code with its status and what to do', async () => {
  const items = Object.entries(ERRORS).map(([code, { status, action }]) => item(`\`${code}\` (${status}): ${action}`));
  const page = `# Errors

Each error of a request has a code in \`error.data.code\`, what to do about it in \`error.data.action\`, and a message that
describes this request. The status is that of HTTP. Items in \`rejected\` of \`usage.record\` have a code and a message;
their batch is answered 200. \`warnings\` in that answer are no errors; [record usage](record.md) explains them. [Keys
and roles](access.md) says more about 401, 403 and 429.

${items.join('\n')}
`;
  await expect(page).toMatchFileSnapshot('../../../docs/errors.md');
});
