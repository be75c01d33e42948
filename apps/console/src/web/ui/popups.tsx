import { Dialog as BaseDialog } from '@base-ui/react/dialog';
import { Menu as BaseMenu } from '@base-ui/react/menu';
import { Popover } from '@base-ui/react/popover';
import { Select as BaseSelect } from '@base-ui/react/select';
import { Toast } from '@base-ui/react/toast';
import { Toggle } from '@base-ui/react/toggle';
import { ToggleGroup } from '@base-ui/react/toggle-group';
import { useBlocker } from '@tanstack/react-router';
import { Check, ChevronDown, CircleCheck, CircleX, Copy } from 'lucide-react';
import {
  createContext,
  type ReactElement,
  type ReactNode,
  type RefObject,
  use,
  useEffect,
  useRef,
  useState,
} from 'react';
import { messageOf, PageError } from '../api.ts';
import { Banner, Button } from './parts.tsx';

export type Option<T extends string = string> = { value: T; label: string; note?: string };

/** Selects one of a few, in a menu. */
export function Select<T extends string>({
  label,
  value,
  options,
  onChange,
  prefix,
  placeholder,
}: {
  label: string;
  value: T;
  options: readonly Option<T>[];
  onChange: (value: T) => void;
  prefix?: string;
  /** Shown while nothing is selected. */
  placeholder?: string;
}) {
  const chosen = options.find((option) => option.value === value);
  return (
    <BaseSelect.Root value={value} onValueChange={(next) => next !== null && onChange(next as T)} items={[...options]}>
      <BaseSelect.Trigger className="button" aria-label={label}>
        <span>
          {prefix && <span className="select-prefix">{prefix} </span>}
          {chosen?.label ?? (value || placeholder)}
        </span>
        <ChevronDown size={15} aria-hidden="true" />
      </BaseSelect.Trigger>
      <BaseSelect.Portal>
        <BaseSelect.Positioner sideOffset={6} alignItemWithTrigger={false} align="start" className="positioner">
          <BaseSelect.Popup className="popup menu">
            {options.map((option) => (
              <BaseSelect.Item key={option.value} value={option.value} className="menu-item">
                <BaseSelect.ItemText className="grow">{option.label}</BaseSelect.ItemText>
                {option.note && <small>{option.note}</small>}
                <BaseSelect.ItemIndicator className="check">
                  <Check size={15} aria-hidden="true" />
                </BaseSelect.ItemIndicator>
              </BaseSelect.Item>
            ))}
          </BaseSelect.Popup>
        </BaseSelect.Positioner>
      </BaseSelect.Portal>
    </BaseSelect.Root>
  );
}

/** Selects one of very few, side by side. */
export function Segments<T extends string>({
  label,
  value,
  options,
  onChange,
}: {
  label: string;
  value: T;
  options: readonly Option<T>[];
  onChange: (value: T) => void;
}) {
  return (
    <ToggleGroup
      className="segments"
      aria-label={label}
      value={[value]}
      onValueChange={([next]) => next !== undefined && onChange(next as T)}
    >
      {options.map((option) => (
        <Toggle key={option.value} value={option.value} className="segment">
          {option.label}
        </Toggle>
      ))}
    </ToggleGroup>
  );
}

/** Something that is on or off. */
export const Switch = ({
  on,
  onChange,
  title,
  children,
}: {
  on: boolean;
  onChange: (on: boolean) => void;
  title: string;
  children: ReactNode;
}) => (
  <Toggle className="button" title={title} pressed={on} onPressedChange={onChange}>
    {children}
  </Toggle>
);

/** A panel that opens below a button. */
export function PopoverButton({
  button,
  label,
  children,
}: {
  button: ReactElement;
  label: string;
  children: (close: () => void) => ReactNode;
}) {
  const [open, setOpen] = useState(false);
  return (
    <Popover.Root open={open} onOpenChange={setOpen}>
      <Popover.Trigger render={button} />
      <Popover.Portal>
        <Popover.Positioner sideOffset={6} align="end" className="positioner">
          <Popover.Popup className="popup" aria-label={label}>
            {children(() => setOpen(false))}
          </Popover.Popup>
        </Popover.Positioner>
      </Popover.Portal>
    </Popover.Root>
  );
}

export type Action = { label: string; icon?: ReactNode; note?: string } & (
  | { href: string; download?: boolean }
  | { run: () => void }
);

/** A menu of actions. */
export function Menu({ button, actions }: { button: ReactElement; actions: readonly Action[] }) {
  return (
    <BaseMenu.Root>
      <BaseMenu.Trigger render={button} />
      <BaseMenu.Portal>
        <BaseMenu.Positioner sideOffset={6} align="end" className="positioner">
          <BaseMenu.Popup className="popup menu">
            {actions.map((action) => (
              <BaseMenu.Item
                key={action.label}
                className="menu-item"
                {...('href' in action
                  ? // biome-ignore lint/a11y/useAnchorContent: the menu item fills it.
                    { render: <a href={action.href} download={action.download} />, nativeButton: false }
                  : { onClick: action.run })}
              >
                {action.icon}
                <span className="grow">{action.label}</span>
                {action.note && <small>{action.note}</small>}
              </BaseMenu.Item>
            ))}
          </BaseMenu.Popup>
        </BaseMenu.Positioner>
      </BaseMenu.Portal>
    </BaseMenu.Root>
  );
}

/** Whether something is typed into the dialog that is not saved. */
const TypedContext = createContext<RefObject<boolean>>({ current: false });

/** A question or a form above the page. */
export function Dialog({
  open,
  onClose,
  title,
  text,
  wide = false,
  peek = false,
  children,
}: {
  open: boolean;
  onClose: () => void;
  title: string;
  text?: ReactNode;
  wide?: boolean;
  /** A click beside it closes it, since nothing is typed there. */
  peek?: boolean;
  children: ReactNode;
}) {
  const isTyped = useRef(false);
  // However it was closed: what is typed into a dialog that stays mounted is no longer shown.
  useEffect(() => {
    if (!open) isTyped.current = false;
  }, [open]);
  const mayLeave = () => !isTyped.current || window.confirm('Discard what you typed?');
  useBlocker({
    disabled: !open,
    enableBeforeUnload: () => isTyped.current,
    shouldBlockFn: () => !mayLeave(),
  });
  return (
    <BaseDialog.Root
      open={open}
      disablePointerDismissal={!peek}
      onOpenChange={(next) => {
        if (!next && mayLeave()) onClose();
      }}
    >
      <BaseDialog.Portal>
        <BaseDialog.Backdrop className="backdrop" />
        <BaseDialog.Popup
          className="dialog"
          data-wide={wide ? '' : undefined}
          onInput={() => {
            isTyped.current = true;
          }}
          // What is sent is no longer to be lost: saving may lead to another page.
          onSubmit={() => {
            isTyped.current = false;
          }}
        >
          <BaseDialog.Title>{title}</BaseDialog.Title>
          <BaseDialog.Description className="dialog-text">{text}</BaseDialog.Description>
          <TypedContext value={isTyped}>{children}</TypedContext>
        </BaseDialog.Popup>
      </BaseDialog.Portal>
    </BaseDialog.Root>
  );
}

type FormProps = {
  save: { mutate: () => void; isPending: boolean; error: Error | null };
  /** The text of the button, and its text while it saves. */
  action: string;
  working: string;
  kind?: 'primary' | 'danger';
  disabled?: boolean;
  onClose: () => void;
  children: ReactNode;
};

/** A dialog that saves its fields: the error of saving, a way to cancel, and the save button. */
export const FormDialog = ({
  open = true,
  title,
  text,
  wide,
  ...form
}: FormProps & { open?: boolean; title: string; text?: ReactNode; wide?: boolean }) => (
  <Dialog open={open} onClose={form.onClose} title={title} text={text} wide={wide}>
    <DialogForm {...form} />
  </Dialog>
);

function DialogForm({ save, action, working, kind = 'primary', disabled = false, onClose, children }: FormProps) {
  const isTyped = use(TypedContext);
  useEffect(() => {
    if (save.error) isTyped.current = true;
  }, [save.error, isTyped]);
  return (
    <form
      className="form"
      onSubmit={(event) => {
        event.preventDefault();
        save.mutate();
      }}
    >
      {children}
      {save.error && <Banner tone="bad">{messageOf(save.error)}</Banner>}
      <div className="dialog-actions">
        <Button type="button" onClick={onClose}>
          Cancel
        </Button>
        <Button kind={kind} type="submit" disabled={save.isPending || disabled}>
          {save.isPending ? working : action}
        </Button>
      </div>
    </form>
  );
}

/**
 * Returns a check for a form that changes something stored: it throws where somebody else changed one of the `edited`
 * fields since the form was opened. It does so once: saving again writes over it. It is no lock: a change between
 * the check and the write is not seen.
 */
export function useUnchanged<Stored extends object>(opened: Stored | null) {
  const seen = useRef(opened);
  return (stored: Stored | undefined, edited: readonly (keyof Stored & string)[]): void => {
    const before = seen.current;
    if (!stored || !before) return;
    seen.current = stored;
    const changed = edited.filter((field) => JSON.stringify(stored[field]) !== JSON.stringify(before[field]));
    if (changed.length === 0) return;
    const values = changed.map((field) => `${labelOfField(field)} is now ${valueText(stored[field])}`);
    throw new PageError(`Somebody changed this since you opened it: ${values.join(', ')}. Save again to replace that.`);
  };
}

const labelOfField = (field: string) => field.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`);
const valueText = (value: unknown) =>
  Array.isArray(value) ? value.join(', ') || 'empty' : value === null || value === '' ? 'empty' : `“${value}”`;

/** Shows a secret, once; null shows nothing. */
export function Secret({
  title,
  text,
  secret,
  onClose,
}: {
  title: string;
  text: string;
  secret: string | null;
  onClose: () => void;
}) {
  return (
    <Dialog open={secret !== null} onClose={onClose} title={title} text={text}>
      <div className="key-shown">
        <code>{secret}</code>
        <CopyButton text={secret ?? ''} />
      </div>
      <div className="dialog-actions">
        <Button kind="primary" onClick={onClose}>
          I have copied it
        </Button>
      </div>
    </Dialog>
  );
}

/** Asks for confirmation before an action that cannot be undone. */
export function Confirm({
  open,
  onClose,
  title,
  text,
  action,
  run,
  busy = false,
}: {
  open: boolean;
  onClose: () => void;
  title: string;
  text: ReactNode;
  action: string;
  run: () => void;
  busy?: boolean;
}) {
  return (
    <Dialog peek open={open} onClose={onClose} title={title} text={text}>
      <div className="dialog-actions">
        <Button onClick={onClose}>Cancel</Button>
        <Button kind="danger" disabled={busy} onClick={run}>
          {action}
        </Button>
      </div>
    </Dialog>
  );
}

export function CopyButton({ text, label = 'Copy' }: { text: string; label?: string }) {
  const [copied, setCopied] = useState(false);
  return (
    <Button
      onClick={() => {
        void navigator.clipboard?.writeText(text).then(() => {
          setCopied(true);
          setTimeout(() => setCopied(false), 1_500);
        });
      }}
    >
      {copied ? <Check size={15} aria-hidden="true" /> : <Copy size={15} aria-hidden="true" />}
      {copied ? 'Copied' : label}
    </Button>
  );
}

export const toasts = Toast.createToastManager();
export const tell = (title: string, description?: string) => toasts.add({ title, description, type: 'done' });
export const tellError = (title: string, description?: string) =>
  toasts.add({ title, description, type: 'error', timeout: 10_000 });
/** Shows why a call failed. */
export const tellFailure = (error: Error) => tellError('That did not work', messageOf(error));

export function Toasts() {
  return (
    <Toast.Provider toastManager={toasts}>
      <Toast.Portal>
        <Toast.Viewport className="toasts">
          <ToastList />
        </Toast.Viewport>
      </Toast.Portal>
    </Toast.Provider>
  );
}

function ToastList() {
  const { toasts: shown } = Toast.useToastManager();
  return shown.map((toast) => (
    <Toast.Root key={toast.id} toast={toast} className="toast" data-type={toast.type}>
      {toast.type === 'error' ? <CircleX size={16} aria-hidden="true" /> : <CircleCheck size={16} aria-hidden="true" />}
      <div>
        <Toast.Title render={<b />} />
        <Toast.Description render={<p />} />
      </div>
    </Toast.Root>
  ));
}
