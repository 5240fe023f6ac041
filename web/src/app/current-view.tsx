/** The view that the route names, for the person who is logged in. */
import type {ComponentType, VNode} from 'preact';
import {ChatView} from '../chat/chat-view';
import {t} from '../i18n/i18n';
import {CannotStart} from '../onboarding/cannot-start';
import {Welcome} from '../onboarding/welcome';
import {startProblem} from '../session/login-flow';
import {LoggedOut} from '../session/logged-out';
import {user} from '../session/session';
import {Lazy} from '../ui/lazy';
import {route, type View} from './router';
import {viewTitle} from './title';

type LateView = Exclude<View, 'chat'>;

/** The views that are loaded when they are first shown. */
const LATE: Readonly<Record<LateView, () => Promise<{readonly default: ComponentType}>>> = {
  settings: () => import('../settings/settings-view'),
  privacy: () => import('../settings/privacy-view'),
  models: () => import('../models/models-view'),
  status: () => import('../status/status-view'),
  setup: () => import('../onboarding/setup-view'),
};
/** These say nothing about a person. */
const FOR_EVERYBODY: readonly View[] = ['privacy', 'status'];

/** Shows nothing until it is known who is logged in. */
export function CurrentView(): VNode | null {
  const {view} = route.value;
  const person = user.value;
  if (person === undefined) return startProblem.value ? <CannotStart /> : null;
  if (person === null && !FOR_EVERYBODY.includes(view)) return <LoggedOut />;
  // What one person sees, or has begun, is not for the next one.
  if (view !== 'chat') return <Lazy key={`${view} ${person?.id}`} load={LATE[view]} />;
  return <div class="chat-area" key={person?.id}><Welcome><h1 class="visually-hidden">{viewTitle.value || t('app.newChat')}</h1><ChatView /></Welcome></div>;
}
