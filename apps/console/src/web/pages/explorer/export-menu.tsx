import { Braces, Download, FileSpreadsheet, FileText, Terminal } from 'lucide-react';
import { useState } from 'react';
import { curlOf, exportLink, type Question, typescriptOf } from '../../copy.ts';
import { type MeasureId, measureOf } from '../../measures.ts';
import type { Interval } from '../../router.tsx';
import { Button } from '../../ui/parts.tsx';
import { CopyButton, Dialog, Menu } from '../../ui/popups.tsx';

const FILES = [
  ['Excel', 'xlsx', FileSpreadsheet],
  ['CSV', 'csv', FileText],
  ['JSON', 'json', Braces],
] as const;

const PROGRAMS = { curl: ['curl', curlOf], typescript: ['TypeScript', typescriptOf] } as const;

/** Downloads the shown data as a file, or writes a program that queries it. */
export function ExportMenu({
  question,
  measure,
  interval,
  timeZone,
}: {
  question: Question;
  measure: MeasureId;
  interval: Interval;
  timeZone: string;
}) {
  const [code, setCode] = useState<keyof typeof PROGRAMS | null>(null);
  const [name, textOf] = PROGRAMS[code ?? 'curl'];
  const text = code ? textOf(question, { interval, timeZone }) : '';
  return (
    <>
      <Menu
        button={
          <Button>
            <Download size={16} aria-hidden="true" />
            Export
          </Button>
        }
        actions={[
          ...FILES.map(([label, ending, Icon]) => ({
            label,
            // Without a grouping, a file has every dimension of every day.
            note: question.by ? `.${ending}` : `days, .${ending}`,
            icon: <Icon size={15} />,
            href: exportLink(question, ending),
            download: true,
          })),
          { label: 'Copy as curl', icon: <Terminal size={15} />, run: () => setCode('curl') },
          { label: 'Copy as TypeScript', icon: <Braces size={15} />, run: () => setCode('typescript') },
        ]}
      />
      <Dialog
        wide
        open={code !== null}
        onClose={() => setCode(null)}
        title={`The same with ${name}`}
        text={`Asks for what is shown here: ${measureOf(measure).label.toLowerCase()} and all other measures. Put an API key into TALLY_KEY.`}
      >
        <pre className="code">{text}</pre>
        <div className="dialog-actions">
          <CopyButton text={text} />
          <Button kind="primary" onClick={() => setCode(null)}>
            Done
          </Button>
        </div>
      </Dialog>
    </>
  );
}
