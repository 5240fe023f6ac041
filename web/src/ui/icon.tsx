/** Icons: drawn with lines of the colour of the text, 24 units wide. */
import type {VNode} from 'preact';

const PATHS = {
  add: 'M12 5v14M5 12h14',
  attach: 'M8 12.5 14.5 6a3.2 3.2 0 0 1 4.5 4.5L11 18.5a5 5 0 0 1-7-7L11.5 4',
  back: 'M15 5 8 12l7 7',
  branch: 'M7 4v16M7 14c6 0 10-2 10-8M17 6m-2.5 0a2.5 2.5 0 1 0 5 0a2.5 2.5 0 1 0-5 0',
  camera: 'M4 8h4l2-3h4l2 3h4v11H4zM12 9.5a3.5 3.5 0 1 0 0 7a3.5 3.5 0 1 0 0-7',
  check: 'M5 12.5 10 17.5 19 7',
  close: 'M6 6l12 12M18 6 6 18',
  copy: 'M9 9h11v11H9zM15 9V4H4v11h5',
  delete: 'M4 7h16M9 7V4h6v3M6.5 7l1 13h9l1-13M10 11v5.5M14 11v5.5',
  download: 'M12 4v11M7 10.5l5 5 5-5M4 20h16',
  down: 'M5 9l7 7 7-7',
  edit: 'M4 20l1-5L16 4l4 4L9 19zM14 6l4 4',
  forward: 'M9 5l7 7-7 7',
  info: 'M12 11v6M12 7v.5M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18',
  key: 'M8 12m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0M12 12h9v4M17 12v3',
  link: 'M10 14l4-4M8 11l-2.5 2.5a3.5 3.5 0 0 0 5 5L13 16M16 13l2.5-2.5a3.5 3.5 0 0 0-5-5L11 8',
  menu: 'M4 7h16M4 12h16M4 17h16',
  model: 'M12 3l8 4.5v9L12 21l-8-4.5v-9zM4 7.5l8 4.5 8-4.5M12 12v9',
  more: 'M4 12a1 1 0 1 0 2 0a1 1 0 1 0-2 0M11 12a1 1 0 1 0 2 0a1 1 0 1 0-2 0M18 12a1 1 0 1 0 2 0a1 1 0 1 0-2 0',
  retry: 'M19 12a7 7 0 1 1-2.5-5.4M20 3v5h-5',
  search: 'M10.5 4a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13M15.5 15.5 20 20',
  send: 'M12 20V5M6 11l6-6 6 6',
  settings: 'M4 7h9M19 7h1M4 17h3M13 17h7M16 7m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0M10 17m-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0',
  shield: 'M12 3l8 3v6c0 5-3.5 7.5-8 9-4.5-1.5-8-4-8-9V6zM9 12l2 2 4-4',
  status: 'M3 12h4l3-7 4 14 3-7h4',
  stop: 'M6 6h12v12H6z',
  upload: 'M12 20V9M7 13.5l5-5 5 5M4 4h16',
  user: 'M12 4a4 4 0 1 0 0 8a4 4 0 1 0 0-8M4.5 20c.5-4 3.5-5.5 7.5-5.5s7 1.5 7.5 5.5',
  warning: 'M12 4 2.5 20h19zM12 10v4.5M12 17v.5',
} as const;

/** Those that point along a line of text. */
const DIRECTED: readonly IconName[] = ['back', 'forward'];

export type IconName = keyof typeof PATHS;

/** Shows an icon, which screen readers skip: the words are beside it. */
export function Icon({name}: {readonly name: IconName}): VNode {
  return (
    <svg class={DIRECTED.includes(name) ? 'icon directed' : 'icon'} viewBox="0 0 24 24" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}
