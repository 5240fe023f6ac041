/** When and from where a key or machine was last used. */
import {t} from '../i18n/i18n';
import {formatRelativeTime} from '../ui/format';

/** `time` is in epoch seconds; null for never. */
export function describeUse(time: number | null | undefined, address: string | null | undefined): string {
  if (!time) return t('settings.notUsed');
  const when = formatRelativeTime(time * 1000, Date.now());
  return address ? t('settings.lastUsedFrom', {when, address}) : t('settings.lastUsed', {when});
}
