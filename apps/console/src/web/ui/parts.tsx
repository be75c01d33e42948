import { Button as BaseButton } from '@base-ui/react/button';
import { Tooltip } from '@base-ui/react/tooltip';
import {
  ArrowDownRight,
  ArrowUpRight,
  CircleAlert,
  CircleCheck,
  Filter,
  type LucideIcon,
  SearchX,
  TriangleAlert,
} from 'lucide-react';
import { type ComponentProps, type ReactElement, type ReactNode, useEffect } from 'react';
import { actionOf, codeOf, messageOf } from '../api.ts';
import { change, format, isNegative, isZero, type Kind, write } from '../quantity.ts';
import { agoText, recentText, timeText } from '../time.ts';

type ButtonProps = ComponentProps<typeof BaseButton> & {
  kind?: 'primary' | 'danger' | 'plain';
  small?: boolean;
  icon?: boolean;
};

export const Button = ({ kind, small, icon, ...props }: ButtonProps) => (
  <BaseButton
    className="button"
    data-kind={kind}
    data-small={small ? '' : undefined}
    data-icon={icon ? '' : undefined}
    {...props}
  />
);

/** Shows `text` while its child is hovered or focused. */
export function Tip({ text, children }: { text: ReactNode; children: ReactElement }) {
  return (
    <Tooltip.Root>
      <Tooltip.Trigger render={children} />
      <Tooltip.Portal>
        <Tooltip.Positioner sideOffset={6}>
          <Tooltip.Popup className="tip">{text}</Tooltip.Popup>
        </Tooltip.Positioner>
      </Tooltip.Portal>
    </Tooltip.Root>
  );
}

/**
 * Shows the exact digits of a quantity; decimals that most readers skip are small. `pad` aligns the decimal points of a
 * column.
 */
export function Digits({ value, kind, pad = 0 }: { value: string; kind: Kind; pad?: number }) {
  const { sign, whole, decimals, tail } = write(value, kind);
  return (
    <>
      {sign}
      {whole}
      {decimals}
      {kind === 'percent' && '%'}
      {tail && <span className="num-tail">{tail}</span>}
      {pad > tail.length && <span className="num-pad" data-pad={'0'.repeat(pad - tail.length)} />}
    </>
  );
}

/** A number without an explanation. Numbers that can be explained are links: see `Explained`. */
export const Num = (props: { value: string; kind: Kind; pad?: number }) => (
  <span className="num">
    <Digits {...props} />
  </span>
);

/** Returns the number of small decimals of the longest of some quantities. */
export const padOf = (values: readonly string[], kind: Kind): number =>
  values.reduce((most, value) => Math.max(most, write(value, kind).tail.length), 0);

/** Shows the change from an earlier quantity; `rising` is the meaning of growth. */
export function Delta({
  current,
  previous,
  rising = 'neutral',
  label,
}: {
  current: string;
  previous: string;
  rising?: 'good' | 'bad' | 'neutral';
  label?: string;
}) {
  const percent = change(current, previous);
  if (percent === null) {
    if (isZero(current)) return <span className="delta">no change</span>;
    return <span className="delta">new</span>;
  }
  const falls = isNegative(percent);
  const flat = isZero(percent);
  const tone = flat || rising === 'neutral' ? undefined : falls === (rising === 'bad') ? 'good' : 'bad';
  const Arrow = falls ? ArrowDownRight : ArrowUpRight;
  return (
    <span className="delta" data-tone={tone}>
      {!flat && <Arrow size={14} aria-hidden="true" />}
      <span className="visually-hidden">{flat ? 'unchanged' : falls ? 'down' : 'up'} </span>
      {format(percent.replace('-', ''), 'percent')}
      {label && <span className="visually-hidden"> {label}</span>}
    </span>
  );
}

/** A moment in the viewer's zone; hovering shows UTC. */
export function Moment({ time, ago = false, clock = false }: { time: string; ago?: boolean; clock?: boolean }) {
  const exact = timeText(time);
  return (
    <time className="num" dateTime={time} title={`${exact}\n${time.replace('T', ' ').replace('Z', '')} UTC`}>
      {ago ? agoText(time) : clock ? recentText(time) : exact}
    </time>
  );
}

const MOMENT = /(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z)/;

/** A sentence of a service, with its moments in the viewer's zone. */
export const Sentence = ({ text }: { text: string }) =>
  text.split(MOMENT).map((part, place) => (place % 2 === 1 ? <Moment key={place} time={part} clock /> : part));

/**
 * Shows the name of what a row is about, with its id where that is another; `children`, such as a swatch, stand before.
 */
export const CellName = ({ name, id, children }: { name: string; id: string; children?: ReactNode }) => (
  <span className="cell-name">
    {children}
    <span title={id}>
      {name}
      {name !== id && <small>{id}</small>}
    </span>
  </span>
);

/** An id or a name that may be long: what does not fit is in the tooltip. */
export const Clip = ({ children, title = children }: { children: string; title?: string }) => (
  <span className="clip" title={title}>
    {children}
  </span>
);

type Tone = 'good' | 'bad' | 'warn' | 'accent';

export const Chip = ({ tone, children }: { tone?: Tone | undefined; children: ReactNode }) => (
  <span className="chip" data-tone={tone}>
    {children}
  </span>
);

const BANNER_ICONS = { bad: CircleAlert, good: CircleCheck, info: Filter, warn: TriangleAlert };

export function Banner({ tone, children }: { tone?: 'bad' | 'good' | 'info'; children: ReactNode }) {
  const Icon = BANNER_ICONS[tone ?? 'warn'];
  return (
    <div className="banner" data-tone={tone} role={tone === 'bad' ? 'alert' : 'status'}>
      <Icon size={16} aria-hidden="true" />
      <div>{children}</div>
    </div>
  );
}

export const Card = ({
  title,
  note,
  tools,
  children,
  flush = false,
}: {
  title?: string;
  note?: ReactNode;
  tools?: ReactNode;
  children: ReactNode;
  flush?: boolean;
}) => (
  <section className="card" {...(title ? { 'aria-label': title } : {})}>
    {title && (
      <div className="card-head">
        <h2>
          {title} {note && <small>{note}</small>}
        </h2>
        {tools}
      </div>
    )}
    {flush ? children : <div className="card-body">{children}</div>}
  </section>
);

/** Names the page in the tab, in the history, and to screen readers. */
export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} · Tally`;
  }, [title]);
}

export function PageHead({ title, note, children }: { title: string; note?: ReactNode; children?: ReactNode }) {
  useTitle(title);
  return (
    <div className="page-head">
      <div className="page-title">
        <h1>{title}</h1>
        {note && <p>{note}</p>}
      </div>
      {children && <div className="tools">{children}</div>}
    </div>
  );
}

/** A page that this key may not see, named as for those who may. */
export const AdminsOnly = ({ title, what }: { title: string; what: string }) => (
  <div className="stack">
    <PageHead title={title} />
    <Banner>Only admins of all merchants may {what}.</Banner>
  </div>
);

export function Empty({
  icon: Icon = SearchX,
  title,
  children,
  tools,
}: {
  icon?: LucideIcon;
  title: string;
  children?: ReactNode;
  tools?: ReactNode;
}) {
  return (
    <div className="empty">
      <Icon size={26} strokeWidth={1.6} aria-hidden="true" />
      <h3>{title}</h3>
      {children && <p>{children}</p>}
      {tools && <div className="tools">{tools}</div>}
    </div>
  );
}

/** What to do about an error. The page itself waits for what is unavailable; services tell programs how to. */
const whatNow = (error: unknown) =>
  codeOf(error) === 'UNAVAILABLE' ? 'It is read again by itself once it is back.' : actionOf(error);

/** Shows an error and what to do about it. */
export function Failure({ error, retry }: { error: unknown; retry?: () => void }) {
  return (
    <div className="empty" role="alert">
      <CircleAlert size={26} strokeWidth={1.6} aria-hidden="true" />
      <h3>{messageOf(error)}</h3>
      {whatNow(error) && <p>{whatNow(error)}</p>}
      {retry && (
        <div className="tools">
          <Button onClick={retry}>Try again</Button>
        </div>
      )}
    </div>
  );
}

/** Reserves the space of content that loads, so that nothing moves when it arrives. */
export const Skeleton = ({ width = '100%', height = 14 }: { width?: string | number; height?: number }) => (
  <span className="skeleton" style={{ width, height }} aria-hidden="true" />
);

export const SkeletonRows = ({ rows = 5, height = 18 }: { rows?: number; height?: number }) => (
  <div className="card-body stack" role="status" aria-label="Loading">
    {Array.from({ length: rows }, (_, index) => (
      <Skeleton key={index} height={height} width={`${96 - ((index * 17) % 34)}%`} />
    ))}
  </div>
);

/** Shows an answer; a skeleton while it loads; its error if it failed. */
export function Answer<T>({
  query,
  waiting,
  children,
}: {
  query: { data: T | undefined; error: unknown; refetch: () => unknown };
  waiting?: ReactNode;
  children: (data: T) => ReactNode;
}) {
  if (query.data !== undefined) return <>{children(query.data)}</>;
  if (query.error) return <Failure error={query.error} retry={() => void query.refetch()} />;
  return <>{waiting ?? <SkeletonRows />}</>;
}

/** Shows a part of an answer in a line; a skeleton while it loads; a dash if it failed, which is reported elsewhere. */
export function Part<T>({
  query,
  width = 60,
  height = 26,
  children,
}: {
  query: { data: T | undefined; error: unknown };
  width?: number;
  height?: number;
  children: (data: T) => ReactNode;
}) {
  if (query.data !== undefined) return <>{children(query.data)}</>;
  return query.error ? <>–</> : <Skeleton width={width} height={height} />;
}

/** Text of programs. Long text scrolls, also by the keyboard. */
export const Code = ({ children }: { children: string }) => (
  // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reached by the keyboard.
  <pre className="code" tabIndex={0}>
    {children}
  </pre>
);
