import { Dialog as BaseDialog } from '@base-ui/react/dialog';
import { type Query, useQuery } from '@tanstack/react-query';
import { Link, Navigate, Outlet, useRouterState } from '@tanstack/react-router';
import {
  Activity,
  BellRing,
  BookOpen,
  ChartColumn,
  Clock,
  Database,
  Gauge,
  HeartPulse,
  Import,
  KeyRound,
  LayoutDashboard,
  LogOut,
  type LucideIcon,
  Menu as MenuIcon,
  Monitor,
  Moon,
  ReceiptText,
  ScrollText,
  Sigma,
  Sun,
  Tag,
  UserRound,
  Users,
  Wallet,
  Webhook,
} from 'lucide-react';
import { Fragment, type ReactNode, useEffect, useRef, useState } from 'react';
import { api, client, codeOf, queryClient } from './api.ts';
import { SignInForm } from './pages/sign-in.tsx';
import { followSignOut, lastWho, rememberWho, signOut, useWho, type Who, WhoContext } from './session.tsx';
import { Brand } from './ui/brand.tsx';
import { Banner, Button, Failure, Moment, Skeleton, Tip } from './ui/parts.tsx';
import { Dialog, Menu } from './ui/popups.tsx';

type PageAddress =
  | '/app/overview'
  | '/app/explorer'
  | '/app/live'
  | '/app/meters'
  | '/app/custom-metrics'
  | '/app/prices'
  | '/app/budgets'
  | '/app/bills'
  | '/app/alerts'
  | '/app/webhooks'
  | '/app/keys'
  | '/app/directory'
  | '/app/jobs'
  | '/app/health'
  | '/app/audit'
  | '/app/sources'
  | '/app/data-sources';

type NavPage = {
  to: PageAddress;
  title: string;
  icon: LucideIcon;
  /** The role needed for the page; absent: any reader. */
  needs?: (who: ReturnType<typeof useWho>) => boolean;
};

const admin: NavPage['needs'] = (who) => who.mayPlatform('admin');

/** The navigation: usage, cost, and operation. */
const GROUPS: readonly { label?: string; pages: readonly NavPage[] }[] = [
  {
    pages: [
      { to: '/app/overview', title: 'Overview', icon: LayoutDashboard },
      { to: '/app/explorer', title: 'Explorer', icon: ChartColumn },
      { to: '/app/live', title: 'Live', icon: Activity },
      { to: '/app/meters', title: 'Meters', icon: Gauge },
      { to: '/app/custom-metrics', title: 'Custom metrics', icon: Sigma },
    ],
  },
  {
    label: 'Money',
    pages: [
      { to: '/app/prices', title: 'Prices', icon: Tag, needs: admin },
      { to: '/app/budgets', title: 'Budgets', icon: Wallet },
      { to: '/app/bills', title: 'Bills', icon: ReceiptText, needs: admin },
      { to: '/app/alerts', title: 'Alerts', icon: BellRing, needs: admin },
      { to: '/app/webhooks', title: 'Webhooks', icon: Webhook, needs: admin },
    ],
  },
  {
    label: 'Manage',
    pages: [
      { to: '/app/keys', title: 'API keys', icon: KeyRound, needs: admin },
      { to: '/app/directory', title: 'Directory', icon: Users },
      { to: '/app/sources', title: 'Sources', icon: Import, needs: admin },
      { to: '/app/data-sources', title: 'Data sources', icon: Database, needs: admin },
      { to: '/app/jobs', title: 'Jobs', icon: Clock, needs: (who) => who.mayPlatform('read') },
      { to: '/app/health', title: 'Health', icon: HeartPulse },
      { to: '/app/audit', title: 'Audit log', icon: ScrollText, needs: admin },
    ],
  },
];

const DOOR = '/app/sign-in';

/** Shows the navigation and the page to signed-in users; sends all others to the sign-in. */
export function Frame() {
  const session = useQuery(
    api.sessions.current.queryOptions(undefined, {
      staleTime: 60_000,
      refetchInterval: 300_000,
      initialData: lastWho,
      initialDataUpdatedAt: 0,
    }),
  );
  const { data: who, dataUpdatedAt } = session;
  const isConfirmed = dataUpdatedAt > 0;
  useEffect(() => {
    if (who && dataUpdatedAt > 0) rememberWho(who);
  }, [who, dataUpdatedAt]);
  useEffect(followSignOut, []);
  const path = useRouterState({ select: ({ location }) => location.href });
  const ended = codeOf(session.error) === 'UNAUTHORIZED';
  if (ended && !isConfirmed)
    // During the redirect this page is still mounted, and its address is that of the sign-in.
    return path.startsWith(DOOR) ? null : <Navigate to={DOOR} search={{ next: path }} replace />;
  if (session.error && !who)
    return (
      <main className="door">
        <Failure error={session.error} retry={() => void session.refetch()} />
        <WaitingBanner />
      </main>
    );
  return (
    <div className="frame">
      <a className="skip" href="#main">
        Skip to the page
      </a>
      {who ? (
        <Navigation who={who} />
      ) : (
        <aside className="sidebar" aria-hidden="true">
          <Brand />
        </aside>
      )}
      {ended && who && <SignInAgain who={who} />}
      <main className="main" id="main" tabIndex={-1}>
        {who ? (
          <WhoContext value={who}>
            <div className="stack">
              <ServiceBanner />
              <WaitingBanner />
              <Outlet />
            </div>
          </WhoContext>
        ) : (
          <div className="stack">
            <WaitingBanner />
            <Skeleton width={220} height={30} />
            <Skeleton height={110} />
            <Skeleton height={320} />
          </div>
        )}
      </main>
    </div>
  );
}

/** Asks for a key when a session ends during work; forms keep what was typed. */
function SignInAgain({ who }: { who: Who }) {
  return (
    <Dialog
      open
      onClose={() => {}}
      title="Your session ended"
      text={`It expired, or its key was revoked. Sign in again as ${who.name} to go on where you are.`}
    >
      <SignInForm
        onSignedIn={async () => {
          const now = await client.sessions.current.query();
          const same = now.keyId === who.keyId && now.merchantId === who.merchantId && now.role === who.role;
          // Somebody else must not see what was read for another key.
          if (!same) return location.reload();
          await queryClient.invalidateQueries();
        }}
      />
      <div className="dialog-actions">
        <Button onClick={() => void signOut()}>Sign in as somebody else</Button>
      </div>
    </Dialog>
  );
}

function Navigation({ who }: { who: Who }) {
  const [open, setOpen] = useState(false);
  const path = useRouterState({ select: ({ location }) => location.pathname });
  useEffect(() => setOpen(false), [path]);
  return (
    <>
      <header className="topbar">
        <Brand />
        <BaseDialog.Root open={open} onOpenChange={setOpen}>
          <BaseDialog.Trigger render={<Button kind="plain" icon aria-label="Open the navigation" />}>
            <MenuIcon size={19} aria-hidden="true" />
          </BaseDialog.Trigger>
          <BaseDialog.Portal>
            <BaseDialog.Backdrop className="backdrop" />
            <BaseDialog.Popup className="drawer" aria-label="Navigation">
              <WhoContext value={who}>
                <Sidebar />
              </WhoContext>
            </BaseDialog.Popup>
          </BaseDialog.Portal>
        </BaseDialog.Root>
      </header>
      <WhoContext value={who}>
        <Sidebar />
      </WhoContext>
    </>
  );
}

function Sidebar() {
  const who = useWho();
  const about = who.merchantId ? `${who.role} of ${who.merchantId}` : who.keyId === 'admin' ? 'settings key' : who.role;
  return (
    <aside className="sidebar">
      <Brand />
      <nav aria-label="Pages" className="nav-group">
        {GROUPS.map(({ label, pages }) => {
          const shown = pages.filter(({ needs }) => needs === undefined || needs(who));
          if (shown.length === 0) return null;
          return (
            <Fragment key={label ?? ''}>
              {label && <span className="nav-label">{label}</span>}
              {shown.map(({ to, title, icon: Icon }) => (
                <NavLink key={to} to={to} icon={<Icon size={17} />}>
                  {title}
                </NavLink>
              ))}
            </Fragment>
          );
        })}
      </nav>
      <div className="nav-foot">
        <NavLink to="/docs" icon={<BookOpen size={17} />}>
          API
        </NavLink>
        <div className="who">
          <span className="who-mark">
            <UserRound size={16} aria-hidden="true" />
          </span>
          <span className="who-name">
            <b title={who.name}>{who.name}</b>
            <small title={about}>{about}</small>
          </span>
          <ThemeMenu />
          <Tip text="Sign out">
            <Button kind="plain" small icon aria-label="Sign out" onClick={() => void signOut()}>
              <LogOut size={16} aria-hidden="true" />
            </Button>
          </Tip>
        </div>
      </div>
    </aside>
  );
}

const NavLink = ({ to, icon, children }: { to: PageAddress | '/docs'; icon: ReactNode; children: ReactNode }) => (
  <Link to={to} className="nav-link">
    {icon}
    {children}
  </Link>
);

type Theme = 'light' | 'dark' | 'system';

function ThemeMenu() {
  const [theme, setTheme] = useState<Theme>(
    () => (document.documentElement.dataset.theme as Theme | undefined) ?? 'system',
  );
  const choose = (next: Theme) => {
    setTheme(next);
    if (next === 'system') {
      delete document.documentElement.dataset.theme;
      localStorage.removeItem('tally-theme');
    } else {
      document.documentElement.dataset.theme = next;
      localStorage.setItem('tally-theme', next);
    }
  };
  const Icon = theme === 'light' ? Sun : theme === 'dark' ? Moon : Monitor;
  return (
    <Menu
      button={
        <Button kind="plain" small icon aria-label={`Theme: ${theme}`}>
          <Icon size={16} aria-hidden="true" />
        </Button>
      }
      actions={[
        { label: 'Light', icon: <Sun size={15} />, run: () => choose('light') },
        { label: 'Dark', icon: <Moon size={15} />, run: () => choose('dark') },
        { label: 'As the system', icon: <Monitor size={15} />, run: () => choose('system') },
      ]}
    />
  );
}

export type ServiceHealth = {
  ok: boolean;
  degraded: boolean;
  version: string;
  services: Record<
    string,
    { ok: boolean; degraded?: boolean; version?: string; notes?: string[]; [fact: string]: unknown }
  >;
};

const HEALTH_MS = 30_000;
const RECOVERY_MS = 5_000;

/** Queries the readiness of all services. */
export const healthQuery = {
  queryKey: ['readyz'],
  queryFn: async (): Promise<ServiceHealth> => (await fetch('/readyz')).json() as Promise<ServiceHealth>,
  /** Often while something is wrong: the page reads again once it is not. */
  refetchInterval: ({ state: { data, status } }: { state: { data?: ServiceHealth | undefined; status: string } }) =>
    data?.degraded || status === 'error' ? RECOVERY_MS : HEALTH_MS,
  // A page about health shows it as it is now.
  staleTime: 0,
} as const;

const WITHOUT: Record<string, string> = {
  'usage-ingest': 'New usage is not accepted, and totals of today may be behind.',
  'metrics-engine': 'Custom metrics, realtime metrics and jobs do not work.',
  'analytics-api': 'Totals and charts do not work.',
};

/** A service that answers may still be unable to work: it says which store it lacks. */
const downText = (name: string, notes: readonly string[]) =>
  notes.length === 0 || notes.some((note) => note.startsWith(name))
    ? `${name} does not answer.`
    : `${name} cannot work. ${notes.join(' ')}`;

/** Names services that do not work, and what works without them. */
function ServiceBanner() {
  const { data } = useQuery(healthQuery);
  const services = Object.entries(data?.services ?? {});
  const down = services.filter(([, { ok }]) => !ok);
  const limited = services.filter(([, { ok, degraded, notes }]) => ok && degraded && notes && notes.length > 0);
  return (
    <>
      {down.length > 0 && (
        <Banner tone="bad">
          {down.map(([name, { notes = [] }]) => (
            <div key={name}>
              <b>{downText(name, notes)}</b> {WITHOUT[name]}
            </div>
          ))}
        </Banner>
      )}
      {limited.length > 0 && (
        <Banner>
          {limited.map(([name, { notes }]) => (
            <div key={name}>
              <b>{name} works with less:</b> {notes!.join(' ')}
            </div>
          ))}
        </Banner>
      )}
    </>
  );
}

const SLOW_SECONDS = 10;
/** Until what failed is asked again although no service reports a change. */
const ASK_AGAIN_MS = 60_000;

/** Says that what the page asked for does not arrive, or failed, and what it shows instead; asks again by itself. */
function WaitingBanner() {
  const { slow, failed } = useTrouble();
  const isSlow = slow.length > 0;
  const isFailed = failed.length > 0;
  useEffect(() => {
    // It names the service that hangs or is down.
    if (isSlow || isFailed) void queryClient.invalidateQueries({ queryKey: healthQuery.queryKey });
  }, [isSlow, isFailed]);
  useRecovery(isFailed);
  const old = [...slow, ...failed].filter(({ state }) => state.data !== undefined);
  async function askAgain() {
    const these = { predicate: (query: Query) => slow.includes(query) };
    await queryClient.cancelQueries(these);
    await queryClient.refetchQueries(these);
  }
  return (
    <>
      {isSlow && (
        <Banner>
          <b>No answer for {SLOW_SECONDS} seconds.</b> A service is busy or hangs. What it answers is shown as it
          arrives.{' '}
          <Button small onClick={() => void askAgain()}>
            Ask again
          </Button>
        </Banner>
      )}
      {old.length > 0 && (
        <Banner>
          <b>Not everything here is current.</b> A part of this page was last read at{' '}
          <Moment time={new Date(Math.min(...old.map(({ state }) => state.dataUpdatedAt))).toISOString()} clock />.
          Tally keeps trying to read it again.
        </Banner>
      )}
    </>
  );
}

/** Reads the page again once a service or a store is back, or has gone, and now and then while something failed. */
function useRecovery(isFailed: boolean): void {
  const { data, isError } = useQuery(healthQuery);
  const states = data && JSON.stringify([isError, Object.values(data.services).map(stateOf)]);
  const before = useRef(states);
  useEffect(() => {
    if (before.current !== undefined && before.current !== states)
      // Also what did not fail: it may have been read without a store.
      void queryClient.refetchQueries({
        type: 'active',
        predicate: ({ queryKey }) => queryKey !== healthQuery.queryKey,
      });
    before.current = states;
  }, [states]);
  useEffect(() => {
    if (!isFailed) return;
    const timer = setInterval(
      () => void queryClient.refetchQueries({ type: 'active', predicate: isRecoverable }),
      ASK_AGAIN_MS,
    );
    return () => clearInterval(timer);
  }, [isFailed]);
}

const stateOf = ({ ok, degraded, postgres, redis }: ServiceHealth['services'][string]) => [
  ok,
  degraded,
  postgres,
  redis,
];

/** Services refuse the same call again; what was unavailable may return. */
const isRecoverable = ({ state }: Query) =>
  state.status === 'error' && (codeOf(state.error) ?? 'UNAVAILABLE') === 'UNAVAILABLE';

/** Queries of the page that wait longer than usual, and those that failed. */
type Trouble = { slow: readonly Query[]; failed: readonly Query[] };
const NO_TROUBLE: Trouble = { slow: [], failed: [] };

function useTrouble(): Trouble {
  const [trouble, setTrouble] = useState(NO_TROUBLE);
  useEffect(() => {
    /** The seconds for which each has been seen to wait. */
    let seconds = new Map<Query, number>();
    const timer = setInterval(() => {
      const active = queryClient
        .getQueryCache()
        .getAll()
        .filter((query) => query.isActive());
      const waiting = active.filter(({ state }) => state.fetchStatus === 'fetching');
      seconds = new Map(waiting.map((query) => [query, (seconds.get(query) ?? 0) + 1]));
      const slow = waiting.filter((query) => seconds.get(query)! > SLOW_SECONDS);
      const failed = active.filter((query) => isRecoverable(query) && !slow.includes(query));
      setTrouble(slow.length + failed.length === 0 ? NO_TROUBLE : { slow, failed });
    }, 1_000);
    return () => clearInterval(timer);
  }, []);
  return trouble;
}
