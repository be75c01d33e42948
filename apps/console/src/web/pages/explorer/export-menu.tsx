import { Braces, Download, FileSpreadsheet, FileText, Terminal } from 'lucide-react';
import { useState } from 'react';
import { curlOf, exportLink, overTime, type Question, typescriptOf } from '../../copy.ts';
import type { Interval } from '../../search.ts';
import { Button } from '../../ui/parts.tsx';
import { CopyButton, Dialog, Menu } from '../../ui/popups.tsx';
import { INTERVAL_NAMES } from './shown.ts';

type Series = { interval: Interval; timeZone: string };

const FILES = [
  ['Excel', 'xlsx', FileSpreadsheet],
  ['CSV', 'csv', FileText],
  ['JSON', 'json', Braces],
] as const;

const PROGRAMS = { curl: ['curl', curlOf], typescript: ['TypeScript', typescriptOf] } as const;

/** Downloads the shown data as a file, or writes a program that queries it. `about` describes the data. */
export function ExportMenu({ question, about, series }: { question: Question; about: string; series: Series }) {
  const [code, setCode] = useState<keyof typeof PROGRAMS | null>(null);
  const [name, textOf] = PROGRAMS[code ?? 'curl'];
  const text = code ? textOf(question) : '';
  const every = INTERVAL_NAMES[series.interval].toLowerCase();
  const isOverTime = 'meter' in question ? !question.groupBy : !question.by;
  const files = (of: Question, suffix: string) =>
    FILES.map(([label, ending, Icon]) => ({
      label: label + suffix,
      note: `.${ending}`,
      icon: <Icon size={15} />,
      href: exportLink(of, ending),
      download: true,
    }));
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
          ...files(question, ''),
          ...(isOverTime ? [] : files(overTime(question, series), `, every ${every}`)),
          { label: 'Copy as curl', icon: <Terminal size={15} />, run: () => setCode('curl') },
          { label: 'Copy as TypeScript', icon: <Braces size={15} />, run: () => setCode('typescript') },
        ]}
      />
      <Dialog
        peek
        wide
        open={code !== null}
        onClose={() => setCode(null)}
        title={`The same with ${name}`}
        text={`Asks for what is shown here: ${about}. Put an API key into TALLY_KEY.`}
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
